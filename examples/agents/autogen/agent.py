"""An AutoGen pair: one asks for a tool, which runs in a narrower sandbox; the other sums up."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient
from tools import run_python


async def main() -> None:
    model = OpenAIChatCompletionClient(
        model="gpt-test",
        model_info={
            "function_calling": True,
            "vision": False,
            "json_output": False,
            "structured_output": False,
            "family": "unknown",
        },
    )
    worker = AssistantAgent("worker", model_client=model, tools=[run_python], reflect_on_tool_use=True)
    editor = AssistantAgent("editor", model_client=model)
    pair = RoundRobinGroupChat([worker, editor], termination_condition=MaxMessageTermination(3))
    result = await pair.run(task=sys.argv[1])
    for message in result.messages[1:]:
        print(f"{message.source}: {message.to_text()}")
    await model.close()


asyncio.run(main())
