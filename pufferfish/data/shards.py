"""The prepared subset on disk: token files that are mapped into memory, the validation text, and the manifest that vouches for them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.schema.reports import Shard, Subset

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
VALIDATION_TEXT = "validation.txt"
VALIDATION_DOCUMENTS = "validation_documents.json"
MAX_HASHED_BYTES = 256 * 10**6  # in each file: 0.2 s at the 1.4 GB/s of one core (0.7 s without SHA instructions), and three stages take that time
AGAIN = "run `dvc repro --force --single-item prepare-subset`"


def token_dtype(vocab_size: int) -> str:
    """The smallest type that holds every id: uint16 or uint32."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def load_subset(folder: Path) -> Subset:
    """The manifest. Raises UserError if it or a file that it names is missing, or not what was written.

    All sizes are compared, and the content of files up to `MAX_HASHED_BYTES`.
    """
    subset = Subset.load(folder / MANIFEST)
    sizes = {shard.file: shard.num_tokens * np.dtype(subset.token_dtype).itemsize for shard in (subset.train, subset.validation)}
    for name, wanted in {**sizes, VALIDATION_TEXT: subset.validation.num_bytes}.items():
        _check_size(folder / name, wanted)
    written = {shard.file: shard.sha256 for shard in (subset.train, subset.validation)}
    for name, sha256 in {**written, TOKENIZER: subset.tokenizer_sha256, **subset.validation_text_sha256}.items():
        _check_content(folder / name, sha256)
    return subset


def open_tokens(folder: Path, shard: Shard, token_dtype: str) -> np.ndarray:
    """The ids of a shard, read-only, mapped into memory. Raises UserError if the file has another size than the manifest says."""
    _check_size(folder / shard.file, shard.num_tokens * np.dtype(token_dtype).itemsize)
    return np.memmap(folder / shard.file, dtype=token_dtype, mode="r", shape=(shard.num_tokens,))


def write_validation_text(folder: Path, documents: list[bytes]) -> dict[str, str]:
    """Keep the raw text: one file, the documents one after the other in the order of the tokens, and where each begins. Returns the SHA-256 of the files."""
    (folder / VALIDATION_TEXT).write_bytes(b"".join(documents))
    offsets = [0]
    for document in documents:
        offsets.append(offsets[-1] + len(document))
    (folder / VALIDATION_DOCUMENTS).write_text(json.dumps({"byte_offsets": offsets}) + "\n", "utf-8")
    return {name: digest_file(folder / name) for name in (VALIDATION_TEXT, VALIDATION_DOCUMENTS)}


def read_validation_text(folder: Path) -> list[str]:
    """The raw validation documents, in the order of the tokens."""
    content = (folder / VALIDATION_TEXT).read_bytes()
    offsets = json.loads((folder / VALIDATION_DOCUMENTS).read_text("utf-8"))["byte_offsets"]
    return [content[start:end].decode("utf-8") for start, end in pairwise(offsets)]


def _check_size(path: Path, wanted: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise UserError("the prepared subset is incomplete", saw=f"{error.strerror}: {path}", fix=AGAIN) from None
    if found != wanted:
        raise UserError("the prepared subset was changed", saw=f"{found} bytes in {path}, written were {wanted}", fix=AGAIN)


def _check_content(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise UserError("the prepared subset is incomplete", saw=f"no file {path}", fix=AGAIN)
    if path.stat().st_size > MAX_HASHED_BYTES:
        return
    found = digest_file(path)
    if found != wanted:
        raise UserError("the prepared subset was changed", saw=f"{path} has SHA-256 {found[:12]}, written as {wanted[:12]}", fix=AGAIN)
