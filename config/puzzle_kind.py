"""Which kind of puzzle a checkpoint answers, so that a puzzle of one's own can be read without the data of the run."""
from dataclasses import replace

import torch

from config.restored import Restored
from dataset.common import PuzzleDatasetMetadata, SplitMetadata
from dataset.kinds.kind import USUAL_SIZES, Kind, find_kind, kind_by_sizes
from dataset.questions import Answers
from utils.checkpoint import puzzle_table_rows, refuse_misfit
from utils.distributed import World


def with_metadata(restored: Restored, name: str | None) -> Restored:
    """The checkpoint with the metadata of its data.

    Published files and files of older versions do not tell them: theirs are those of the usual puzzles (`USUAL_SIZES`)
    that the shapes of its weights fit. `name`: a kind, to which these are then restricted. Raises ValueError where no
    such puzzles fit, or several do.
    """
    if restored.metadata is not None:
        return restored
    fitting = {(kind, sizes): metadata for kind, all_sizes in USUAL_SIZES.items() for sizes in all_sizes
               if kind == (name or kind) and fits(restored, metadata := _usual_metadata(restored, kind, *sizes))}
    if len(fitting) != 1:
        named = ", ".join(f"{kind} of {L} cells" for (kind, (L, _)) in fitting)
        said = f"fits several kinds of puzzle: {named}" if fitting else \
            f"does not fit the usual puzzles{f' of the kind {name}' if name else ''}"
        raise ValueError(f"{restored.file} does not tell the sizes of its puzzles, and {said}; "
                         + ("choose one with kind=…" if fitting else "use a checkpoint of this project, which does"))
    (metadata,) = fitting.values()
    return replace(restored, usual=metadata)


def _usual_metadata(restored: Restored, kind: str, seq_len: int, vocab_size: int) -> PuzzleDatasetMetadata:
    return PuzzleDatasetMetadata(
        pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=vocab_size, seq_len=seq_len, kind=kind,
        num_puzzle_identifiers=puzzle_table_rows(restored.weights()) or 1, total_groups=1, total_puzzles=1,
        mean_puzzle_examples=1.0, sets=["all"])


def fits(restored: Restored, metadata: SplitMetadata) -> bool:
    """Do the weights of a checkpoint have the shapes of a model for such data?"""
    try:
        with torch.device("meta"):  # tensors there have shapes, and no memory
            planned = restored.arch.build_head(metadata, 1, World(device=torch.device("meta")))
            refuse_misfit(planned.state_dict(), restored.weights(), restored.file)
    except (ValueError, RuntimeError):
        return False
    return True


def answers(restored: Restored, metadata: PuzzleDatasetMetadata) -> Answers:
    """Tells of a kind whether the model answers puzzles of its size. `metadata`: of the training data."""
    def answered(kind: Kind) -> bool:
        try:
            restored.of_other_sizes(resized(metadata, kind))
        except ValueError:  # its weights have a size
            return False
        return True

    return answered


def resized(metadata: PuzzleDatasetMetadata, kind: Kind) -> PuzzleDatasetMetadata:
    """The metadata of such puzzles at the size of `kind`."""
    if kind.seq_len == metadata.seq_len:
        return metadata
    return metadata.model_copy(update={"seq_len": kind.seq_len, "vocab_size": kind.vocab_size, "token_names": None})


def kind_of_checkpoint(restored: Restored, name: str | None, trust_code: bool) -> tuple[Kind, PuzzleDatasetMetadata]:
    """The kind of puzzle that a checkpoint with metadata answers: the one named here, or in its metadata, or the only
    usual one of such sizes, or else plain sequences. With it the metadata, which name it.

    Raises ValueError for a model of floats, and where there is no such kind, or it has other sizes.
    """
    metadata = restored.metadata
    if not isinstance(metadata, PuzzleDatasetMetadata):
        raise ValueError(f"{restored.file} was trained on {metadata.KIND if metadata else 'other data'}; "
                         "only models of puzzles can be given one to solve")
    chosen = name or metadata.kind or kind_by_sizes(metadata.seq_len, metadata.vocab_size) or "sequence"
    try:
        kind = find_kind(chosen, trust_code)(metadata.seq_len, metadata.vocab_size, metadata.token_names)
    except ValueError as error:
        raise ValueError(f"{restored.file}, kind {chosen!r}: {error}; choose another with kind=…") from error
    return kind, metadata.model_copy(update={"kind": chosen})
