"""Windows over the tokens: every sample by its number, every token a target, and a thread that changes nothing."""

import threading

import numpy as np
import pytest

from pufferfish.base.errors import UserError
from pufferfish.data.batches import BATCHES_AHEAD, Prefetcher, Windows, validation_windows


def tokens(count: int) -> np.ndarray:
    return np.arange(1000, 1000 + count, dtype=np.uint16)


def test_each_sample_is_a_contiguous_stretch_of_the_ring():
    windows = Windows(tokens(101), seq_len=7, seed=0)
    batch = windows.batch(0, 50)
    assert batch.shape == (50, 8)
    assert batch.dtype == np.int64
    assert ((np.diff(batch, axis=1) - 1) % 101 == 0).all()


def test_a_sample_depends_on_its_number_alone():
    windows = Windows(tokens(101), seq_len=7, seed=0)
    whole = windows.batch(0, 60)
    for first, count in ((0, 1), (13, 5), (12, 30), (59, 1), (3, 17)):
        assert np.array_equal(windows.batch(first, count), whole[first : first + count])
    assert np.array_equal(Windows(tokens(101), seq_len=7, seed=0).batch(41, 19), whole[41:])
    assert not np.array_equal(Windows(tokens(101), seq_len=7, seed=1).batch(0, 60), whole)


@pytest.mark.parametrize(("count", "seq_len"), [(101, 7), (98, 7), (9, 8), (15, 8), (23, 8), (64, 8)])
def test_no_token_is_a_target_twice_in_an_epoch_and_every_token_is_one_in_time(count, seq_len):
    windows = Windows(tokens(count), seq_len, seed=5)
    seen = np.zeros(count, dtype=int)
    num_epochs = 200
    for epoch in range(num_epochs):
        targets = windows.batch(epoch * windows.num_windows, windows.num_windows)[:, 1:].ravel() - 1000
        assert len(set(targets)) == len(targets) == windows.tokens_per_epoch
        seen[targets] += 1
    expected = num_epochs * windows.tokens_per_epoch / count
    assert seen.min() > 0.7 * expected
    assert seen.max() < 1.3 * expected
    assert windows.tokens_per_epoch > count - seq_len


def test_epochs_differ_in_order_and_in_where_windows_begin():
    windows = Windows(tokens(105), seq_len=7, seed=0)
    epochs = [windows.batch(15 * number, 15)[:, 0] for number in range(10)]
    assert not np.array_equal(epochs[0], epochs[1])
    assert len({int(starts[0]) % 7 for starts in epochs}) > 3


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="shorter than one window") as error:
        Windows(tokens(64), seq_len=64, seed=0)
    assert "63" in error.value.fix
    assert Windows(tokens(65), seq_len=64, seed=0).batch(0, 3).shape == (3, 65)


def test_the_thread_gives_what_asking_would_give():
    windows = Windows(tokens(101), seq_len=7, seed=0)
    with Prefetcher(windows, micro_batch=3, first=11) as batches:
        for number in range(3 * BATCHES_AHEAD):
            assert np.array_equal(next(batches), Windows(tokens(101), seq_len=7, seed=0).batch(11 + 3 * number, 3))


def test_the_thread_stays_a_bounded_number_of_batches_ahead_and_ends_with_its_block():
    class Counting(Windows):
        asked = 0

        def batch(self, first, count):
            self.asked += 1
            return super().batch(first, count)

    windows = Counting(tokens(101), seq_len=7, seed=0)
    with Prefetcher(windows, micro_batch=2, first=0) as batches:
        for _ in range(5):
            next(batches)
    assert 5 <= windows.asked <= 5 + BATCHES_AHEAD
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_an_error_in_the_thread_is_raised_where_the_batch_is_taken():
    class Broken(Windows):
        def batch(self, first, count):
            if first >= 6:
                raise OSError("the disk is gone")
            return super().batch(first, count)

    with Prefetcher(Broken(tokens(101), seq_len=7, seed=0), micro_batch=2, first=0) as batches:
        for _ in range(3):
            next(batches)
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


@pytest.mark.parametrize(("count", "seq_len"), [(101, 7), (99, 7), (8, 7), (5, 7), (2, 7), (1, 7)])
def test_validation_predicts_each_token_but_the_first_exactly_once(count, seq_len):
    stream = tokens(count)
    predicted = []
    for inputs, targets in validation_windows(stream, seq_len):
        assert 0 < len(inputs) == len(targets) <= seq_len
        assert inputs.dtype == targets.dtype == np.int64
        assert np.array_equal(inputs[1:], targets[:-1])
        assert inputs[0] == targets[0] - 1
        predicted.extend(targets)
    assert predicted == stream[1:].tolist()
