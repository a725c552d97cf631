"""The tables of enrolment and rotation, without files and agents."""

import pytest

from twinhost.certificates.admission import ADMISSION, Admission, Command, Standing
from twinhost.certificates.join import JOIN, JoinFinding, JoinProgress, JoinWork
from twinhost.certificates.rotate import ROTATION, Finding, Progress, Work

WENT_WELL = {
    Work.MAKE: Finding.NEXT_PAIR,
    Work.PUBLISH: Finding.NEXT_PUBLIC,
    Work.AWAIT_FOLLOWERS: Finding.FOLLOWED,
    Work.SWITCH: Finding.NEXT_IN_USE,
    Work.AWAIT_OWNER: Finding.SERVED,
    Work.RETIRE: Finding.REVOKED,
    Work.PROVE: Finding.REFUSED,
}


@pytest.mark.parametrize(
    ("found", "works"),
    [
        (Finding.NO_NEXT, list(Work)),
        (Finding.NEXT_PAIR, list(Work)[1:]),
        (Finding.NEXT_IN_USE, [Work.AWAIT_OWNER, Work.RETIRE, Work.PROVE]),
    ],
)
def test_a_rotation_goes_on_from_what_it_finds(found: Finding, works: list[Work]) -> None:
    """Whichever files are there, it ends with the proof, and a switch never precedes the followers."""
    done = []
    transition = ROTATION.after(ROTATION.first, found)
    while transition.effect is not None:
        done.append(transition.effect)
        transition = ROTATION.after(transition.then, WENT_WELL[transition.effect])
    assert (done, transition.then) == (works, Progress.PROVEN)


@pytest.mark.parametrize("found", [JoinFinding.NO_KEY, JoinFinding.WRITTEN, JoinFinding.IN_PLACE])
@pytest.mark.parametrize("forgotten", [0, 1])
def test_a_join_goes_on_from_what_it_finds(found: JoinFinding, forgotten: int) -> None:
    """Whichever files are there, and where mainpc was restarted meanwhile; the secret is put in place last."""
    done = []
    answers = [JoinFinding.FORGOTTEN] * forgotten + [JoinFinding.CONFIRMED]
    transition = JOIN.after(JOIN.first, found)
    while (work := transition.effect) is not None:
        done.append(work)
        match work:
            case JoinWork.PROPOSE | JoinWork.PROPOSE_AGAIN:
                came = JoinFinding.WRITTEN
            case JoinWork.CONFIRM:
                came = answers.pop(0)
            case JoinWork.INSTALL:
                came = JoinFinding.INSTALLED
        transition = JOIN.after(transition.then, came)
    assert (done[-1], transition.then) == (JoinWork.INSTALL, JoinProgress.JOINED)


def test_a_key_that_mainpc_forgets_twice_is_not_proposed_again() -> None:
    """Somebody revoked it, or uses the same invitation."""
    again = JOIN.after(JoinProgress.REPEATED, JoinFinding.FORGOTTEN)
    assert (again.effect, again.then is JoinProgress.JOINED) == (None, False)


@pytest.mark.parametrize("command", Command)
def test_nothing_is_done_with_a_name_that_has_a_key(command: Command) -> None:
    """Until that key is revoked."""
    assert ADMISSION.after(Standing.AUTHORISED, command).effect is None


def test_an_open_invitation_is_replaced_only_on_demand() -> None:
    """Its line was shown to somebody."""
    assert ADMISSION.after(Standing.INVITED, Command.INVITE).effect is None
    assert ADMISSION.after(Standing.INVITED, Command.AGAIN).effect is Admission.INVITE
