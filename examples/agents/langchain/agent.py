"""A LangChain agent whose tool runs in a narrower sandbox."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from tools import run_python

agent = create_agent(model=ChatOpenAI(model="gpt-test"), tools=[run_python])
result = agent.invoke({"messages": [{"role": "user", "content": sys.argv[1]}]})
print(result["messages"][-1].content)
