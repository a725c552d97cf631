"""The tables of enrolment and rotation, without files and agents."""

import pytest

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
