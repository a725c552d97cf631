"""The tables of enrolment and rotation, without files and agents."""

import pytest

from twinhost.certificates.admission import ADMISSION, Admission, AdmissionCommand, Standing
from twinhost.certificates.join import JOIN, JoinFinding, JoinProgress, JoinWork
from twinhost.certificates.rotate import ROTATION, RotationFinding, RotationProgress, RotationWork

WENT_WELL = {
    RotationWork.MAKE: RotationFinding.NEXT_PAIR,
    RotationWork.PUBLISH: RotationFinding.NEXT_PUBLIC,
    RotationWork.AWAIT_FOLLOWERS: RotationFinding.FOLLOWED,
    RotationWork.SWITCH: RotationFinding.NEXT_IN_USE,
    RotationWork.AWAIT_OWNER: RotationFinding.SERVED,
    RotationWork.RETIRE: RotationFinding.REVOKED,
    RotationWork.PROVE: RotationFinding.REFUSED,
}


@pytest.mark.parametrize(
    ("found", "works"),
    [
        (RotationFinding.NO_NEXT, list(RotationWork)),
        (RotationFinding.NEXT_PAIR, list(RotationWork)[1:]),
        (RotationFinding.NEXT_IN_USE, [RotationWork.AWAIT_OWNER, RotationWork.RETIRE, RotationWork.PROVE]),
    ],
)
def test_a_rotation_goes_on_from_what_it_finds(found: RotationFinding, works: list[RotationWork]) -> None:
    """Whichever files are there, it ends with the proof, and a switch never precedes the followers."""
    done = []
    transition = ROTATION.after(ROTATION.first, found)
    while transition.effect is not None:
        done.append(transition.effect)
        transition = ROTATION.after(transition.then, WENT_WELL[transition.effect])
    assert (done, transition.then) == (works, RotationProgress.PROVEN)


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
            case JoinWork.PROPOSE:
                came = JoinFinding.WRITTEN
            case JoinWork.CONFIRM | JoinWork.PROPOSE_AGAIN:
                came = answers.pop(0)
            case JoinWork.INSTALL:
                came = JoinFinding.INSTALLED
        transition = JOIN.after(transition.then, came)
    assert (done[-1], transition.then) == (JoinWork.INSTALL, JoinProgress.JOINED)


@pytest.mark.parametrize("command", AdmissionCommand)
def test_nothing_is_done_with_a_name_that_has_a_key(command: AdmissionCommand) -> None:
    """Until that key is revoked."""
    assert ADMISSION.after(Standing.AUTHORISED, command).effect is None


def test_an_open_invitation_is_replaced_only_on_demand() -> None:
    """Its line was shown to somebody."""
    assert ADMISSION.after(Standing.INVITED, AdmissionCommand.INVITE).effect is None
    assert ADMISSION.after(Standing.INVITED, AdmissionCommand.AGAIN).effect is Admission.INVITE
