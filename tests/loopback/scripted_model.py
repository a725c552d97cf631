"""A model for the OpenAI Agents SDK that answers from a script, without a network; and a tool for it."""

import json
from collections.abc import AsyncIterator
from typing import Any

from agents import ModelResponse, Usage, function_tool
from agents.items import TResponseInputItem, TResponseOutputItem
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText


class Scripted(Model):
    """A model that answers from a script, and keeps what it was given."""

    def __init__(self, *outputs: list[TResponseOutputItem]) -> None:
        self.outputs = list(outputs)
        self.given: list[list[Any]] = []

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        *_: Any,
        **__: Any,
    ) -> ModelResponse:
        self.given.append([input] if isinstance(input, str) else list(input))
        return ModelResponse(output=self.outputs.pop(0), usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def answer(text: str) -> list[TResponseOutputItem]:
    content = ResponseOutputText(type="output_text", text=text, annotations=[])
    return [ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[content])]


def call_of(tool: str, **arguments: Any) -> list[TResponseOutputItem]:
    text = json.dumps(arguments)
    return [ResponseFunctionToolCall(type="function_call", call_id="c1", name=tool, arguments=text)]


@function_tool
def price_of(thing: str) -> str:
    return f"{thing}: 40 euros " + "." * 70_000
