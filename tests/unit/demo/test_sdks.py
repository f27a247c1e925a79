"""The vendors' own SDKs against the demo: they must not notice that it isn't the real thing."""

from __future__ import annotations

import anthropic
import httpx
import openai
import pytest

from streamproxy.demo.completion import FAILING, FAILURE, MODEL, MODELS, TEXT, TOKENS

PROMPT = [{"role": "user", "content": "What is a stream?"}]


@pytest.fixture
async def chat(upstream_url: str):
    async with openai.AsyncOpenAI(base_url=f"{upstream_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(upstream_url: str):
    async with anthropic.AsyncAnthropic(base_url=upstream_url, api_key="none", max_retries=0) as client:
        yield client


async def test_openai_reads_a_stream_with_its_usage(chat: openai.AsyncOpenAI) -> None:
    options = {"include_usage": True}
    stream = await chat.chat.completions.create(model=MODEL, messages=PROMPT, stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == TEXT
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == len(TOKENS)


async def test_openai_reads_a_whole_answer(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(model=MODEL, messages=PROMPT, max_completion_tokens=3)
    assert answer.choices[0].message.content == "".join(TOKENS[:3])
    assert answer.choices[0].finish_reason == "length"


async def test_openai_raises_its_own_exception_for_a_bad_request(chat: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await chat.chat.completions.create(model=MODEL, messages=[])
    assert caught.value.param == "messages"


async def test_openai_reads_a_response_with_its_usage(chat: openai.AsyncOpenAI) -> None:
    async with chat.responses.stream(model=MODEL, input="What is a stream?") as stream:
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        response = await stream.get_final_response()
    assert (text, response.output_text, response.status) == (TEXT, TEXT, "completed")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (4, len(TOKENS))


async def test_openai_reads_a_text_completion(chat: openai.AsyncOpenAI) -> None:
    stream = await chat.completions.create(model=MODEL, prompt="What is a stream?", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT


async def test_a_failure_inside_a_stream_is_the_sdks_own_exception(
    chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    stream = await chat.chat.completions.create(model=FAILING, messages=PROMPT, stream=True)
    with pytest.raises(openai.APIError, match=FAILURE):
        [chunk async for chunk in stream]
    with pytest.raises(anthropic.APIStatusError, match=FAILURE):
        async with claude.messages.stream(model=FAILING, max_tokens=9, messages=PROMPT) as failing:
            await failing.get_final_message()


async def test_both_list_the_models(chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic) -> None:
    assert [model.id async for model in chat.models.list()] == list(MODELS)
    assert [model.display_name async for model in claude.models.list()] == ["Demo 1", "Demo 2"]


async def test_anthropic_reads_a_stream_with_its_usage(claude: anthropic.AsyncAnthropic) -> None:
    async with claude.messages.stream(model=MODEL, max_tokens=1000, messages=PROMPT) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    assert text == TEXT
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (4, len(TOKENS))


async def test_anthropic_reads_a_whole_answer(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(model=MODEL, max_tokens=5, messages=PROMPT)
    assert message.content[0].text == "".join(TOKENS[:5])
    assert message.stop_reason == "max_tokens"


async def test_anthropic_raises_its_own_exception_for_a_bad_request(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        await claude.messages.create(model=MODEL, max_tokens=5, messages=[])


async def test_broken_breaks_the_connection(upstream_url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, client.stream("GET", f"{upstream_url}/broken") as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await response.aread()
