"""Mutations of bytes, all of them from one seed."""

import random
from collections.abc import Sequence

_MOST_CHANGES = 4
_MOST_INSERTED = 64  # bytes
_INTERESTING = (0x00, 0x01, 0x02, 0x04, 0x7F, 0x80, 0xFE, 0xFF, 0x22, 0x5B, 0x7B, 0x5C)  # flags, edges, JSON's marks
_LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


class Mutator:
    """Makes new inputs out of good ones; the same seed makes the same ones in the same order."""

    def __init__(self, seed: int, corpus: Sequence[bytes]) -> None:
        self._random = random.Random(seed)
        self._corpus = corpus

    def next(self) -> bytes:
        """Return one good input with one to four changes."""
        content = bytearray(self._random.choice(self._corpus))
        for _ in range(self._random.randint(1, _MOST_CHANGES)):
            self._change(content)
        return bytes(content)

    def _change(self, content: bytearray) -> None:
        chance = self._random
        at = chance.randrange(len(content) + 1)
        length = min(len(content) - at, chance.randint(1, _MOST_INSERTED))
        match chance.randrange(8):
            case 0 if at < len(content):
                content[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(content):
                content[at] = chance.choice(_INTERESTING)
            case 2:
                content[at:at] = chance.randbytes(chance.randint(1, _MOST_INSERTED))
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = content[at : at + length] * chance.randint(1, 8)
            case 5:
                del content[at:]
            case 6:
                size = chance.choice((1, 2, 4, 8))
                content[at : at + size] = (chance.choice(_LENGTHS) & (256**size - 1)).to_bytes(size, "big")
            case _:
                other = chance.choice(self._corpus)
                start = chance.randrange(len(other) + 1)
                content[at:] = other[start:]
