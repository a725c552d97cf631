"""`python -m tests.fuzzing.decoder_run TARGET INPUTS SEED REPORT`: feed one decoder, in a process of its own.

Where atheris is there, it guides the inputs by what they reach; elsewhere they are mutations of good ones. An
input that does not end is ended by libFuzzer's alarm, or by faulthandler's, which no C code can hold up.
"""

import faulthandler
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

_atheris: Any = importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None

HANG_S = 20  # of wall-clock time; the account has a tighter limit, of the process's own time
_MOST_BYTES = 8_192
_ARM_EVERY = 1_000  # inputs; the alarm starts a thread each time


def main(target: str, inputs: int, seed: int, report: Path) -> None:
    """Feed so many inputs, and write the account; a failure leaves none."""
    if _atheris is None:
        _mutate(target, inputs, seed, report)
    else:
        _guide(target, inputs, seed, report)


def _mutate(target: str, inputs: int, seed: int, report: Path) -> None:
    from tests.fuzzing.account import Account
    from tests.fuzzing.decoders import TARGETS
    from tests.fuzzing.mutation import Mutator

    make_take, make_corpus = TARGETS[target]
    take, corpus = make_take(), make_corpus()
    account, mutator = Account(target, "mutations", seed, corpus, inputs), Mutator(seed, corpus)
    for content in corpus[:inputs]:
        account.take(take, content)
    while account.count < inputs:
        if account.count % _ARM_EVERY == 0:
            faulthandler.dump_traceback_later(HANG_S, exit=True)
        account.take(take, mutator.next())
    faulthandler.cancel_dump_traceback_later()
    report.write_text(json.dumps(account.report().as_dict()))


def _guide(target: str, inputs: int, seed: int, report: Path) -> None:
    with _atheris.instrument_imports(include=["twinhost.secure_zmq", "twinhost.agent"]):
        from tests.fuzzing.account import Account
        from tests.fuzzing.decoders import TARGETS

    make_take, make_corpus = TARGETS[target]
    take, corpus = make_take(), make_corpus()
    account = Account(target, f"atheris {_version()}", seed, corpus, inputs)

    def one_input(content: bytes) -> None:
        if account.count < inputs:
            account.take(take, content)
            if account.count == inputs:  # libFuzzer ends the process without coming back here
                report.write_text(json.dumps(account.report().as_dict()))

    folder = Path(tempfile.mkdtemp(dir=report.parent))
    for number, content in enumerate(corpus):
        (folder / f"{number:04}").write_bytes(content)
    options = [f"-runs={inputs}", f"-seed={seed}", f"-timeout={HANG_S}", f"-max_len={_MOST_BYTES}"]
    silent = ["-verbosity=0", "-print_final_stats=0", f"-artifact_prefix={report.parent}/"]
    _atheris.Setup([sys.argv[0], *options, *silent, str(folder)], one_input)
    _atheris.Fuzz()


def _version() -> str:
    from importlib.metadata import version

    return version("atheris")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
