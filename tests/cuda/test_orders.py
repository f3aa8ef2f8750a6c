"""The checker on programs of a few lines: what is ordered, and what is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.cuda.fake import streams
from tests.cuda.fake.courier import Courier
from tests.cuda.fake.memory import DeviceMemory, recorded_streams
from tests.cuda.fake.regions import Region
from tests.cuda.fake.watch import Watch


@pytest.fixture
def memory() -> Iterator[DeviceMemory]:
    """A watched device in this thread."""
    memory = DeviceMemory(streams.Gpu())
    with (
        streams.simulated_streams(),
        streams.in_this_thread(memory.gpu),
        recorded_streams(lambda: memory),
        Watch(memory, Courier(memory.gpu)),
    ):
        yield memory
    memory.closed = True


def kinds(memory: DeviceMemory) -> set[str]:
    return {finding.kind for finding in memory.findings}


def copy_on(stream: torch.cuda.Stream, into: torch.Tensor, source: torch.Tensor) -> None:
    with torch.cuda.stream(stream):
        into.copy_(source)


def test_an_event_orders_a_copy_and_its_reader(memory: DeviceMemory) -> None:
    side = torch.cuda.Stream()
    source, into = torch.ones(8), torch.zeros(8)
    side.wait_stream(torch.cuda.current_stream())
    copy_on(side, into, source)
    arrived = side.record_event()
    assert into.sum().isnan(), "the copy is early"
    assert kinds(memory) == {"write and read without an order"}
    memory.findings.clear()
    arrived.wait()
    assert into.sum().item() == 8.0
    assert not memory.findings


def test_a_copy_that_does_not_wait_brings_poison(memory: DeviceMemory) -> None:
    side = torch.cuda.Stream()
    source, into = torch.ones(8), torch.zeros(8)
    copy_on(side, into, source)
    side.record_event().wait()
    assert into.sum().isnan()
    assert kinds(memory) == {
        "write and read without an order",
        "write and write without an order",
    }


def test_halves_of_a_storage_are_apart(memory: DeviceMemory) -> None:
    side = torch.cuda.Stream()
    both, source = torch.zeros(2, 8), torch.ones(8)
    side.wait_stream(torch.cuda.current_stream())
    copy_on(side, both[0], source)
    both[1].add_(1.0)
    assert not memory.findings
    both[0].add_(1.0)
    assert kinds(memory) == {"write and write without an order"}
    side.record_event().wait()


@pytest.mark.parametrize("recorded", ["nothing", "the stream", "another stream"])
def test_a_storage_is_freed_when_its_streams_are_done(memory: DeviceMemory, recorded: str) -> None:
    side, other = torch.cuda.Stream(), torch.cuda.Stream()
    source, into = torch.ones(8), torch.zeros(8)
    side.wait_stream(torch.cuda.current_stream())
    copy_on(side, into, source)
    if recorded != "nothing":
        source.record_stream(side if recorded == "the stream" else other)
    del source
    expected = set() if recorded == "the stream" else {"freed while another stream uses it"}
    assert kinds(memory) == expected
    side.record_event().wait()


def test_an_event_of_the_wrong_stream_orders_nothing(memory: DeviceMemory) -> None:
    side, other = torch.cuda.Stream(), torch.cuda.Stream()
    source, into = torch.ones(8), torch.zeros(8)
    side.wait_stream(torch.cuda.current_stream())
    copy_on(side, into, source)
    other.record_event().wait()
    assert into.sum().isnan()
    assert memory.findings
    side.record_event().wait()


def test_a_host_that_has_waited_orders_all_later_work(memory: DeviceMemory) -> None:
    side, other = torch.cuda.Stream(), torch.cuda.Stream()
    source, into, last = torch.ones(8), torch.zeros(8), torch.zeros(8)
    side.wait_stream(torch.cuda.current_stream())
    copy_on(side, into, source)
    side.synchronize()
    copy_on(other, last, into)
    torch.cuda.synchronize()
    assert last.sum().item() == 8.0
    assert not memory.findings


def test_regions_share_bytes_exactly() -> None:
    rows = torch.zeros(6, 10)
    left, right = Region.of(rows[:, :5]), Region.of(rows[:, 5:])
    assert not left.shares_bytes_with(right)
    assert left.shares_bytes_with(Region.of(rows[2]))
    assert not Region.of(rows[::2]).shares_bytes_with(Region.of(rows[1::2]))
    assert Region.of(rows.t()).shares_bytes_with(right)
    assert not Region.of(rows[:2]).shares_bytes_with(Region.of(rows[2:]))
    for seed in range(200):
        chance = torch.Generator().manual_seed(seed)
        cut = torch.randint(0, 6, (8,), generator=chance).tolist()
        first = rows[cut[0] : cut[0] + 1 + cut[1], cut[2] : cut[2] + 1 + cut[3]]
        second = rows[cut[4] : cut[4] + 1 + cut[5] : 2, cut[6] : cut[6] + 1 + cut[7]]
        bytes_of = [
            set(
                torch.arange(60)
                .as_strided(x.shape, x.stride(), x.storage_offset())
                .ravel()
                .tolist()
            )
            for x in (first, second)
        ]
        share = bool(bytes_of[0] & bytes_of[1])
        assert Region.of(first).shares_bytes_with(Region.of(second)) == share
