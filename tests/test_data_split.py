"""What is learned from and what is measured on, and which part of a long text stands for all of it."""

import random
import re

import numpy as np
import pytest

from pufferfish.base.errors import UserError
from pufferfish.data.select import PIECE_BYTES, choose, divide, until_character
from pufferfish.data.split import catalog, hold_back, not_in


def documents(count: int, *, size: int = 37) -> list[tuple[str, str]]:
    return [(f"{number}.txt", f"document {number} " + "x" * (number * 13 % size)) for number in range(count)]


def test_about_the_wanted_share_is_held_back():
    known = catalog(documents(1003), seed=0)
    is_held_back_D = hold_back(known, share=0.07, max_bytes=10**9)
    share = known.sizes_D[is_held_back_D].sum() / known.num_bytes
    assert 0.06 < share <= 0.07


def test_the_cap_on_validation_text_holds():
    known = catalog(documents(1003), seed=0)
    assert 400 < known.sizes_D[hold_back(known, share=0.5, max_bytes=500)].sum() <= 500


def test_the_split_follows_the_content_and_the_seed_and_not_names_or_order():
    forward, backward = documents(211), [(f"other {name}", text) for name, text in reversed(documents(211))]
    one = hold_back(catalog(forward, seed=3), share=0.2, max_bytes=10**9)
    assert np.array_equal(one, hold_back(catalog(backward, seed=3), share=0.2, max_bytes=10**9)[::-1])
    assert not np.array_equal(one, hold_back(catalog(forward, seed=4), share=0.2, max_bytes=10**9))


def test_copies_of_a_document_fall_on_the_same_side():
    many = documents(97) + [(f"copy {name}", text) for name, text in documents(97)] + documents(41)
    is_held_back_D = hold_back(catalog(many, seed=1), share=0.3, max_bytes=10**9)
    held_back = {text for (_, text), is_held_back in zip(many, is_held_back_D, strict=True) if is_held_back}
    learned = {text for (_, text), is_held_back in zip(many, is_held_back_D, strict=True) if not is_held_back}
    assert held_back
    assert learned
    assert held_back.isdisjoint(learned)


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999, 1.0])
def test_neither_side_is_ever_empty(share):
    known = catalog([("a", "short"), ("b", "a longer document"), ("c", "a longer document")], seed=0)
    is_held_back_D = hold_back(known, share=share, max_bytes=10**9)
    assert 0 < is_held_back_D.sum() < 3


def test_where_each_document_is_too_much_the_smallest_is_held_back():
    known = catalog([("a", "x" * 900), ("b", "y" * 700), ("c", "z" * 800)], seed=0)
    assert hold_back(known, share=0.05, max_bytes=10**9).tolist() == [False, True, False]


def test_a_note_beside_long_documents_is_not_all_that_is_measured_on():
    known = catalog([("book", "x" * 300_000), ("note", "y" * 40), ("novel", "z" * 200_000)], seed=0)
    assert hold_back(known, share=0.05, max_bytes=10**9).tolist() == [False, True, True]


def test_a_note_beside_one_long_document_is_too_little_to_measure_on():
    with pytest.raises(UserError, match="too little text is left to measure on") as error:
        hold_back(catalog([("book", "x" * 300_000), ("note", "y" * 40)], seed=0), share=0.05, max_bytes=10**9)
    assert "2 documents, all but one of them 40 B together" in error.value.saw


def test_copies_of_one_document_cannot_be_split():
    with pytest.raises(UserError, match="cannot be split") as error:
        hold_back(catalog([("a", "same"), ("b", "same")], seed=0), share=0.5, max_bytes=100)
    assert "2 documents, all equal" in error.value.saw


def test_documents_of_the_users_validation_text_are_not_learned_from():
    train, own = catalog(documents(50), seed=0), catalog(documents(50)[7:19], seed=0)
    assert np.flatnonzero(~not_in(train, own)).tolist() == list(range(7, 19))
    with pytest.raises(UserError, match="nothing is left"):
        not_in(own, train)


def chosen_numbers(count: int, max_bytes: int, seed: int) -> list[int]:
    known = catalog(documents(count), seed=0)
    return choose(known.sizes_D, np.ones(count, dtype=bool), max_bytes=max_bytes, seed=seed).document_P.tolist()


def test_the_subset_comes_from_every_stretch_of_the_text_in_equal_shares():
    count, num_stretches = 1280, 16
    total = catalog(documents(count), seed=0).num_bytes
    numbers = np.array(chosen_numbers(count, total // 5, seed=0))
    per_stretch = np.bincount(numbers * num_stretches // count, minlength=num_stretches)
    assert per_stretch.min() > 0.7 * count / 5 / num_stretches
    assert per_stretch.max() < 1.3 * count / 5 / num_stretches


def test_the_subset_is_seeded_and_a_larger_one_holds_a_smaller_one():
    small, large = chosen_numbers(1280, 4000, seed=0), chosen_numbers(1280, 9000, seed=0)
    assert small == chosen_numbers(1280, 4000, seed=0)
    assert small != chosen_numbers(1280, 4000, seed=1)
    assert set(small) < set(large)
    assert small == sorted(small)
    assert small != list(range(len(small)))


def test_a_subset_has_the_planned_bytes_and_whole_characters():
    many = [(str(number), "🐡" * (number % 7 + 1)) for number in range(300)]
    known = catalog(many, seed=0)
    selection = choose(known.sizes_D, np.ones(300, dtype=bool), max_bytes=1001, seed=0)
    content = b"".join(piece.content for piece in selection.read(many))
    assert 1001 - 4 < len(content) <= 1001
    assert set(content.decode()) == {"🐡"}


def test_only_documents_of_the_wanted_side_are_chosen():
    known = catalog(documents(30), seed=0)
    is_included_D = np.arange(30) % 3 == 1
    read = choose(known.sizes_D, is_included_D, max_bytes=10**9, seed=0).read(documents(30))
    assert [piece.content.decode() for piece in read] == [text for number, (_, text) in enumerate(documents(30)) if number % 3 == 1]


def long_document(num_bytes: int) -> str:
    return "".join(f"line {number} of a long document\n" for number in range(num_bytes // 28))


def test_a_long_document_is_read_whole_when_all_of_it_is_wanted():
    many = [("a", "short"), ("long", long_document(5 * PIECE_BYTES)), ("b", "end")]
    known = catalog(many, seed=0)
    pieces = list(choose(known.sizes_D, np.ones(3, dtype=bool), max_bytes=10**9, seed=0).read(many))
    assert b"".join(piece.content for piece in pieces).decode() == "".join(text for _, text in many)
    assert sum(piece.is_start for piece in pieces) == 3
    assert len(pieces) > 5


def test_a_part_of_a_long_document_comes_from_all_over_it():
    many = [("long", long_document(40 * PIECE_BYTES))]
    known = catalog(many, seed=0)
    pieces = list(choose(known.sizes_D, np.ones(1, dtype=bool), max_bytes=10 * PIECE_BYTES, seed=0).read(many))
    total = len(many[0][1])
    positions = [many[0][1].encode().index(piece.content[:2000]) / total for piece in pieces]
    assert sum(len(piece.content) for piece in pieces) <= 10 * PIECE_BYTES
    assert min(positions) < 0.3
    assert max(positions) > 0.7
    for piece, before in zip(pieces[1:], pieces, strict=False):
        follows = before.content + piece.content in many[0][1].encode()
        assert piece.is_start != follows  # a gap is a document's end


def test_a_few_documents_of_many_are_neither_the_first_nor_the_short_ones():
    sizes_D = np.tile([400, 4000], 500)
    for seed in range(5):
        chosen = choose(sizes_D, np.ones(1000, dtype=bool), max_bytes=44_000, seed=seed)
        assert 0.25 < np.mean(sizes_D[chosen.document_P] == 400) < 0.75
    few_D = np.full(20, 4000)
    chosen = [choose(few_D, np.ones(20, dtype=bool), max_bytes=20_000, seed=seed).document_P for seed in range(5)]
    assert np.mean(chosen) > 5


def test_parts_are_cut_at_line_starts_and_never_inside_a_character():
    lines = long_document(1000).encode()
    assert all(part.endswith(b"document\n") for part in divide(lines, 7))
    assert b"".join(divide(lines, 7)) == lines
    fish = "🐡".encode() * 101
    assert b"".join(divide(fish, 9)) == fish
    for part in divide(fish, 9):
        part.decode()
    assert until_character(fish, 9) == "🐡🐡".encode()
    assert until_character(fish, 3) == b""


def slowly_divided(content: bytes, count: int) -> list[bytes]:
    """One byte after the other; line ends are plain."""
    cuts = [0]
    for number in range(1, count):
        wanted, limit = len(content) * number // count, len(content) * (number + 1) // count
        starts = [at for at in range(max(2, wanted), limit) if re.fullmatch(rb"\S\n\S", content[at - 2 : at + 1])]
        characters = [at for at in range(wanted, limit) if content[at] & 0xC0 != 0x80]
        cuts.append((starts + characters + [wanted])[0])
    return [content[start:end] for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True)]


@pytest.mark.parametrize("alphabet", ["ab é🐡", "ab é🐡\n", "a\n\n ", "abcdefghij🐡\t\u3000.;\r\n", "ab;\r"])
def test_parts_are_those_of_a_plain_loop(alphabet):
    dice = random.Random(0)
    for length in [3, 40, 400] * 20:
        content = "".join(dice.choices(alphabet, k=length)).replace("\r\n", "\n").encode()
        for count in (1, 2, 7):
            assert divide(content, count) == slowly_divided(content, count)


def test_text_without_line_starts_is_cut_where_its_parts_are_equal():
    content = b"word " * 4_000
    assert divide(content, 10) == [content[at : at + 2_000] for at in range(0, len(content), 2_000)]


@pytest.mark.parametrize(("end", "is_cut_at"), [(".\r\n", ".\r\n"), ("word\r\n", "word\r\n"), ("é\r\n", "é\r\n"), ("word\r\nlast.\r\n", "last.\r\n")])
def test_crlf_text_is_cut_at_line_starts(end, is_cut_at):
    lines = "".join(f"line {number} {end}" for number in range(1000)).encode()
    parts = divide(lines, 7)
    assert b"".join(parts) == lines
    assert all(part.endswith(is_cut_at.encode()) for part in parts), "better where the line ends with punctuation: its tokens stay"
    assert max(map(len, parts)) < len(lines) / 7 + 60
