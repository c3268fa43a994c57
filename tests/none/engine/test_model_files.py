"""Where models are found, and what is said when they are not."""

from pathlib import Path
from unittest import mock

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from tradewind.base.errors import ConfigError, ModelNotFound
from tradewind.config import ModelConfig
from tradewind.engine.model_files import load_text, locate


@pytest.fixture
def hub(monkeypatch, model_directory):
    """A hub that gives `model_directory`, or raises what it is told to, and notes what it was asked."""
    download = mock.Mock(return_value=str(model_directory))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return download


def test_a_directory_is_itself(model_directory):
    assert locate(str(model_directory)) == model_directory


def test_demo_is_inside_the_package(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda _path: True)
    assert locate("demo").parts[-2:] == ("tradewind", "demo")


@pytest.mark.parametrize("name", ["./no/such", "/no/such/place", "../none", "~/none", "a/b/c", "a b"])
def test_a_path_that_is_not_there(name, hub):
    with pytest.raises(ModelNotFound, match="there is no directory") as caught:
        locate(name)
    assert caught.value.field == "model"
    hub.assert_not_called()


def test_a_mistyped_path_names_the_nearest(model_directory):
    wrong = str(model_directory) + "x"
    with pytest.raises(ModelNotFound) as caught:
        locate(wrong)
    assert f"did you mean {str(model_directory)!r}" in caught.value.message


def test_a_directory_without_config_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelNotFound, match=r"no config.json \(it has: notes.txt\)"):
        locate(str(tmp_path))


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(ModelNotFound, match="is a file"):
        locate(str(tmp_path / "model.gguf"))


def test_a_repository_is_fetched_with_the_files_that_are_needed(hub, model_directory):
    assert locate("org/name", "v2", weights=False) == model_directory
    assert hub.call_args.args == ("org/name",)
    assert hub.call_args.kwargs["revision"] == "v2"
    assert "*.safetensors" not in hub.call_args.kwargs["allow_patterns"]
    with pytest.raises(ModelNotFound, match=r"no \*.safetensors"):
        locate("org/name")
    assert "*.safetensors" in hub.call_args.kwargs["allow_patterns"]


def hub_error(kind, text="no"):
    response = mock.Mock(status_code=404, headers={}, request=mock.Mock())
    return kind(text, response=response)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub_error(errors.RepositoryNotFoundError), "check its spelling"),
        (hub_error(errors.GatedRepoError), "is gated: accept its terms at https://huggingface.co/org/name"),
        (hub_error(errors.HfHubHTTPError, "500 Server Error"), "500 Server Error"),
        (errors.LocalEntryNotFoundError("x"), "huggingface.co cannot be reached"),
        (errors.HFValidationError("x"), "check its spelling"),
        (OSError("disk full"), "disk full"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub, error, words):
    hub.side_effect = error
    with pytest.raises(ModelNotFound) as caught:
        locate("org/name")
    assert "'org/name'" in caught.value.message
    assert words in caught.value.message
    assert caught.value.field == "model"


def test_an_unknown_revision_is_the_fields_fault(hub):
    hub.side_effect = hub_error(errors.RevisionNotFoundError)
    with pytest.raises(ModelNotFound, match="no revision 'v9'") as caught:
        locate("org/name", "v9")
    assert caught.value.field == "revision"


def test_offline_mode_is_respected_and_said(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="not in the download cache, and HF_HUB_OFFLINE is set"):
        locate("org/name")


def test_download_progress_is_told_in_bytes(hub, model_directory):
    def download(_name, **settings):
        with settings["tqdm_class"](total=200, unit="B") as bar:
            bar.update(50)
            bar.update(150)
        return str(model_directory)

    hub.side_effect = download
    told = []
    locate("org/name", None, lambda stage, share: told.append((stage, share)), weights=False)
    assert told == [("looking up org/name", 0.0), ("downloading org/name", 0.25), ("downloading org/name", 1.0)]


def test_text_files_are_loaded(model_directory, tmp_path):
    tokenizer, defaults = load_text(model_directory, ModelConfig())
    assert tokenizer.eos_token_id in defaults.eos_token_ids
    assert tokenizer.chat_template is None
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}!")
    tokenizer, _ = load_text(model_directory, ModelConfig(chat_template=str(template)))
    assert tokenizer.chat_template.render([{"role": "user", "content": "hi"}]) == "hi!"


def test_a_missing_chat_template_is_named(model_directory):
    with pytest.raises(ConfigError, match=r"no file 'nope.jinja'") as caught:
        load_text(model_directory, ModelConfig(chat_template="nope.jinja"))
    assert caught.value.field == "chat_template"
