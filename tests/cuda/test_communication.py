"""NCCL's order, deadlocks and room: programs by hand, and the engine's own."""

from __future__ import annotations

import pytest

from sppo.config.sizes import MIB
from tests.cuda.fake.communication import Program, Room, Run, order_findings
from tests.cuda.fake.nccl import Call, Communicator, Compute, Wait

UP, DOWN = Communicator(0, (0, 1), True), Communicator(1, (0, 1), True)
ALL = Communicator(2, (0, 1), False)


def deadlocks(programs: dict[int, Program]) -> list[str]:
    return Run(programs).deadlocks()


def message(
    operation: str, on: Communicator, peer: int, elements: int = 8, cap: int | None = None
) -> Call:
    return Call(operation, on, peer, elements, "torch.bfloat16", cap, "engine.py:1")


def collective(operation: str, elements: int = 8) -> Call:
    return Call(operation, ALL, None, elements, "torch.float32", None, "optimizer.py:1")


def exchange(sends_on: Communicator, receives_on: Communicator, peer: int) -> list[Call | Wait]:
    """A receive posted ahead, then a send, then the waits for both."""
    ahead, send = message("receive", receives_on, peer), message("send", sends_on, peer)
    return [ahead, send, Wait(1), Wait(0)]


def test_receives_posted_ahead_need_a_communicator_for_each_direction() -> None:
    apart = {0: exchange(UP, DOWN, 1), 1: exchange(DOWN, UP, 0)}
    assert deadlocks(apart) == []
    together = {0: exchange(UP, UP, 1), 1: exchange(UP, UP, 0)}
    findings = deadlocks(together)
    assert len(findings) == 2
    assert "rank 0 waits in receive of 8 torch.bfloat16 (engine.py:1) on group 0" in findings


def test_a_message_that_nobody_receives_is_found() -> None:
    programs = {0: [message("send", UP, 1)], 1: []}
    assert deadlocks(programs)
    assert order_findings(programs) == [
        "message 0 of group 0, 0 to 1: send of 8 torch.bfloat16 (engine.py:1) but nothing"
    ]


def test_a_message_of_another_size_is_found() -> None:
    programs = {0: [message("send", UP, 1, 8)], 1: [message("receive", UP, 0, 9)]}
    assert len(order_findings(programs)) == 1


def test_collectives_in_another_order_are_found() -> None:
    gather, reduce = collective("all_gather"), collective("all_reduce")
    assert order_findings({0: [gather, reduce], 1: [gather, reduce]}) == []
    assert len(order_findings({0: [gather, reduce], 1: [reduce, gather]})) == 2
    assert deadlocks({0: [gather, reduce], 1: [reduce, gather]})


def room_of(program: Program) -> Room:
    """Of rank 0, whose peer sends nothing in time."""
    return Run({0: program}).room()


@pytest.mark.parametrize(("cap", "sms"), [(None, 32), (4, 4)])
def test_waiting_receives_hold_sms_beside_a_compute(cap: int | None, sms: int) -> None:
    first, second = (message("receive", each, 1, cap=cap) for each in (UP, DOWN))
    room = room_of([first, Compute()])
    assert (room.waiting_receives, room.held_sms) == (1, sms)
    both = room_of([first, second, Compute()])
    assert (both.waiting_receives, both.held_sms) == (2, 2 * sms)
    assert both.communicator_bytes == 2 * (10 + 2 * sms) * MIB
    assert room_of([first, first, Compute()]).held_sms == sms, "a stream runs one call at a time"
    assert room_of([Compute(), first]).held_sms == 0, "nothing computes beside it"
    assert room_of([message("send", UP, 1), Compute()]).held_sms == 0


def test_a_receive_whose_sender_is_known_to_have_come_does_not_wait() -> None:
    """The sender sends on UP, then on DOWN; who has waited for the second has the first."""
    ahead = [message("receive", UP, 1), message("receive", DOWN, 1)]
    sends = [message("send", UP, 0), message("send", DOWN, 0)]
    late = {0: [*ahead, Wait(1), Compute(), Wait(0)], 1: sends}
    assert Run(late).room().waiting_receives == 0
    unknown = {0: [*ahead, Wait(0), Compute(), Wait(1)], 1: sends}
    assert Run(unknown).room().waiting_receives == 1


def test_too_much_room_is_a_finding() -> None:
    receives = [message("receive", Communicator(number, (0, 1), True), 1) for number in range(40)]
    findings = room_of([*receives, Compute()]).findings()
    assert len(findings) == 2
    assert "40 waiting receives" in findings[0]
    assert "40 communicators" in findings[1]
