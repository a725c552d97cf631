"""`certs-init verify`: everything that is wrong with the tree, and what is remarkable."""

import argparse

from twinhost.certificates.commands.command import Commands, Tree, add_command
from twinhost.certificates.survey import own_folders
from twinhost.certificates.terminal import say
from twinhost.certificates.verify import verify_tree


def add(commands: Commands) -> None:
    """Put the command on the command line."""
    add_command(commands, "verify", run, "check every file, mode, owner, and pair")


def run(_: argparse.Namespace, tree: Tree) -> int:
    """Verify the tree; return 1 where something is wrong with it."""
    layout = tree.layout
    findings = verify_tree(layout)
    problems = findings.problems
    for problem in problems:
        say(problem)
    for remark in findings.remarks:
        say(f"remark: {remark}")
    count = len(own_folders(layout))
    say(f"{layout.root}: {len(problems)} problems" if problems else f"{layout.root}: {count} folders are right")
    return 1 if problems else 0
