"""Servers that several test files share; each xdist process has its own."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from live import TEMPLATE, Program


@pytest.fixture(scope="session")
def stories(shared_data: Path) -> Path:
    """The directory of a small real model."""
    return shared_data / "models" / "stories260K"


@pytest.fixture(scope="session")
def chat_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat template that writes the messages one after the other."""
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture(scope="session")
def program(stories: Path, chat_template: Path) -> Iterator[Program]:
    """`tradewind serve` with a real model on the CPU."""
    arguments = (
        "--chat-template",
        str(chat_template),
        "--served-model-name",
        "tiny",
        "alias",
        "--memory-bytes",
        "32MiB",
    )
    served = Program(str(stories), *arguments, "--device", "cpu", "--threads", "1")
    yield served
    served.close()


@pytest.fixture(scope="session")
def demo() -> Iterator[openai.OpenAI]:
    """OpenAI's own client of the built-in model, on the CPU."""
    served = Program("demo", "--device", "cpu", "--threads", "1", "--memory-bytes", "16MiB")
    yield openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    served.close()
