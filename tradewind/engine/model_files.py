"""Where a model's files are: a directory, the built-in model, or a Hugging Face repository that is fetched first."""

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tradewind
from tradewind.base.errors import ConfigError, ModelNotFound
from tradewind.config import ModelConfig
from tradewind.text.generation import GenerationDefaults

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer

ProgressCall = Callable[[str, float], None]

DEMO = "demo"
_TEXT_FILES = ["*.json", "*.jinja"]
_WEIGHT_FILES = ["*.safetensors"]
# Sub-folders hold other formats of the same weights, and consolidated files a second copy of them.
_NOT_WANTED = ["*/*", "consolidated*"]
_REPOSITORY_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+", re.ASCII)


def locate(name: str, revision: str | None = None, progress: ProgressCall | None = None, weights: bool = True) -> Path:
    """The directory of a model's files: config.json, tokenizer.json and, if `weights`, *.safetensors.

    `name` is a directory, 'demo', or a Hugging Face repository id, whose files are downloaded unless they are in its
    cache already (and only looked up there when HF_HUB_OFFLINE is set). `progress(stage, share)` is called meanwhile.
    Raises ModelNotFound saying what was tried and what would be right.
    """
    if name == DEMO:
        return _check_directory(Path(tradewind.__file__).parent / "demo")
    path = Path(name).expanduser()
    if path.is_dir():
        return _check_directory(path)
    if path.exists():
        raise ModelNotFound(f"{name!r} is a file; give the directory that holds config.json", field="model")
    if name.startswith(("/", "./", "../", "~")) or not _REPOSITORY_ID.fullmatch(name):
        raise ModelNotFound(_no_directory(name, path), field="model")
    return _fetch(name, revision, progress or (lambda _stage, _share: None), weights)


def load_text(directory: Path, config: ModelConfig) -> "tuple[Tokenizer, GenerationDefaults]":
    """The tokenizer (the model's own or `config.tokenizer`, with `config.chat_template`) and the sampling defaults.

    Raises StartupError (or one of its kinds).
    """
    from tradewind.text.tokenizer import Tokenizer  # here: it costs 0.1 s that the start of a process can do without

    template = None
    if config.chat_template is not None:
        template = Path(config.chat_template).expanduser()
        if not template.is_file():
            raise ConfigError(f"--chat-template: there is no file {config.chat_template!r}", field="chat_template")
    source = directory if config.tokenizer is None else locate(config.tokenizer, weights=False)
    tokenizer = Tokenizer.load(source, template)
    return tokenizer, GenerationDefaults.load(directory, tokenizer)


def _check_directory(path: Path) -> Path:
    if not (path / "config.json").is_file():
        found = ", ".join(sorted(child.name for child in path.iterdir())[:8]) if path.is_dir() else ""
        raise ModelNotFound(
            f"the directory {str(path)!r} holds no config.json (it has: {found or 'nothing'}); "
            "give a directory in the layout of Hugging Face: config.json, tokenizer.json, *.safetensors",
            field="model",
        )
    return path


def _no_directory(name: str, path: Path) -> str:
    siblings = [child.name for child in path.parent.iterdir() if child.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    guess = f"did you mean {str(path.parent / near[0])!r}? A" if near else "a"
    return (
        f"there is no directory {name!r}; {guess} model is a local directory, 'demo', or a Hugging Face repository id "
        "such as Qwen/Qwen3-0.6B"
    )


def _fetch(name: str, revision: str | None, progress: ProgressCall, weights: bool) -> Path:
    """Download a repository's files, or find them in the cache."""
    from huggingface_hub import constants, errors, snapshot_download

    progress(f"looking up {name}", 0.0)
    patterns = _TEXT_FILES + (_WEIGHT_FILES if weights else [])
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=_NOT_WANTED,
            tqdm_class=_progress_bar(f"downloading {name}", progress),
        )
    except errors.GatedRepoError:
        raise _not_found(
            name, f"is gated: accept its terms at https://huggingface.co/{name}, then run 'hf auth login'"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelNotFound(f"{name!r} has no revision {revision!r}", field="revision") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise _not_found(
            name, "is not a repository on huggingface.co, or is private: check its spelling, or run 'hf auth login'"
        ) from None
    except errors.LocalEntryNotFoundError:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "huggingface.co cannot be reached"
        raise _not_found(name, f"is not in the download cache, and {reason}") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise _not_found(name, f"could not be downloaded: {error}") from error
    path = _check_directory(Path(folder))
    if weights and not any(path.glob("*.safetensors")):
        raise _not_found(name, "has no *.safetensors files; weights in other formats are not read")
    return path


def _not_found(name: str, why: str) -> ModelNotFound:
    return ModelNotFound(f"model {name!r}: there is no such directory here, and the repository {why}", field="model")


def _progress_bar(stage: str, progress: ProgressCall) -> Any:
    """A class in the shape that huggingface_hub asks for, which reports bytes to `progress` and draws nothing."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def display(self, *_arguments: Any, **_settings: Any) -> bool:
            return True

        def update(self, n: float | None = 1) -> bool | None:
            updated: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                progress(stage, min(1.0, self.n / self.total))
            return updated

    return Bar
