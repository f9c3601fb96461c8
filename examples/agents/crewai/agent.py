"""A CrewAI crew of one whose tool runs in a narrower sandbox."""

import os
import sys
from pathlib import Path

# Nothing is told to anybody but the model: where it would, the egress policy says no.
os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "CREWAI_TRACING_ENABLED": "false"}
sys.path.insert(0, str(Path(__file__).parents[1]))

import tools
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool


@tool("run_python")
def run_python(code: str) -> str:
    """Run Python code and give what it prints."""
    return tools.run_python(code)


model = LLM(model="openai/gpt-4o-mini", base_url=os.environ["OPENAI_BASE_URL"])
worker = Agent(role="worker", goal="answer", backstory="You answer with numbers.", tools=[run_python], llm=model)
task = Task(description=sys.argv[1], expected_output="a sentence", agent=worker)
print(Crew(agents=[worker], tasks=[task]).kickoff())
