"""Checkpoints by name on the Hugging Face hub: `hf://owner/name`, with `@revision` and `/file or folder` behind it.

    python evaluate.py checkpoint=hf://owner/name data_paths="[data/…]"
    python evaluate.py checkpoint=checkpoints/PROJECT/RUN export=hub hub_repo=owner/name

The library's own variables apply: `HF_HUB_OFFLINE=1` uses only its cache, `HF_HOME` says where that is, and `HF_TOKEN`
who uploads. The library is an extra (requirements-extra.txt), imported when a name needs it.
"""
import re
from pathlib import Path

PREFIX = "hf://"
REPOSITORY = r"[\w.-]+/[\w.-]+"
REFERENCE = re.compile(rf"{PREFIX}(?P<repo>{REPOSITORY})(@(?P<revision>[^/]+))?(/(?P<inside>.+))?")
# Of a whole repository, only what a run or an export leaves; a file or folder inside comes with what says of it.
BESIDE = ("config.yaml", "all_config.yaml", "identifiers.json")
OF_A_RUN = ("model.safetensors", "best.ckpt", "latest.txt", "step_*", "checkpoint", *BESIDE)


def is_reference(path: str | Path) -> bool:
    return str(path).startswith(PREFIX)


def repository_of(reference: str) -> str:
    """The `owner/name` in a reference. Raises ValueError if it has another form."""
    return _parsed(reference)["repo"]


def downloaded(reference: str) -> Path:
    """The local copy of what a reference names. Only what the cache lacks is downloaded.

    Raises ValueError where it is neither in the cache nor to be had from the hub.
    """
    hub = _library()
    parts = _parsed(reference)
    inside = parts["inside"]
    folder = Path(inside or "").parent
    wanted = [inside, f"{inside}/*", *(str(folder / name) for name in BESIDE)]
    try:
        snapshot = hub.snapshot_download(parts["repo"], revision=parts["revision"],
                                     allow_patterns=wanted if inside else list(OF_A_RUN))
    except Exception as error:  # the library's and its HTTP client's, by version; what was said is passed on
        raise ValueError(f"{reference} is not in the cache ({hub.constants.HF_HUB_CACHE}) and "
                         f"cannot be downloaded ({_said(error)}); check the name, the network and "
                         "HF_HUB_OFFLINE, or give a local path"
                         ) from error
    return Path(snapshot, inside or "")


def upload(folder: Path, repository: str) -> str:
    """Upload a folder's files as one commit. Returns the address of the repository, which is made, public, if needed.

    Raises ValueError where the hub cannot be reached, or refuses; the folder stays as it is.
    """
    api = _library().HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder,
                                     commit_message="Upload a checkpoint"))
    except Exception as error:  # as in `downloaded`
        raise ValueError(f"the upload to {repository} failed ({_said(error)}); what was to be "
                         f"uploaded is in {folder}: with a network and HF_TOKEN set, `hf upload "
                         f"{repository} {folder}` does it") from error


def _library():
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise ValueError("hf://… and export=hub need huggingface_hub, which is not installed; pip "
                         "install huggingface_hub") from error
    return huggingface_hub


def _parsed(reference: str) -> dict[str, str | None]:
    match = REFERENCE.fullmatch(reference)
    if not match:
        raise ValueError(f"{reference} must have the form hf://owner/name, "
                         "hf://owner/name@revision or hf://owner/name/file or folder")
    return match.groupdict()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
