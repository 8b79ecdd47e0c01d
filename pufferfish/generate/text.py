"""From token ids to text, piece by piece, without ever showing half a character."""

from __future__ import annotations

import codecs

from tokenizers import Tokenizer


def byte_alphabet() -> dict[str, int]:
    """The characters that stand for the 256 bytes in a byte-level vocabulary (GPT-2, Radford et al., 2019).

    Printable ones stand for themselves, the others have characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class TextStream:
    """Turns tokens into text as they come; bytes that do not yet make a character wait for the next token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = byte_alphabet()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that is complete now, maybe empty. Bytes that can never be UTF-8 become U+FFFD."""
        symbols = self._tokenizer.id_to_token(token)
        assert symbols is not None, f"token {token} is not in the vocabulary of {self._tokenizer.get_vocab_size()}"
        return self._decoder.decode(bytes(self._bytes_of[symbol] for symbol in symbols))

    def finish(self) -> str:
        """What was held back, if anything, as U+FFFD."""
        return self._decoder.decode(b"", final=True)
