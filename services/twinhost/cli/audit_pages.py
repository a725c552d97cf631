"""The audit log over the wire: page after page, and its verification here, which trusts no word of the writer's."""

from collections.abc import Callable, Iterator

from twinhost.cli.documents import AuditPage, read
from twinhost.secure_zmq.client import DEFAULT_DEADLINE_S, Client
from twinhost.secure_zmq.errors import MessageTooLarge
from twinhost.store.audit_log.chain import Anchor, Head
from twinhost.store.audit_log.verify import Findings, Verifier

MOST_LINES = 2_000  # in a page
DEADLINE_S = DEFAULT_DEADLINE_S  # for each page


class AuditReader:
    """Reads pages of one agent's log; asks for less where a page would be too large for a reply."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.deadline_s = DEADLINE_S
        self._limit = MOST_LINES

    def page(self, after_seq: int = 0, position: str | None = None) -> AuditPage:
        """Return the lines after a number, or those from the position of the page before on.

        Raises:
            TwinhostError: it can't be asked for, or is refused.
        """
        where = {"after_seq": after_seq} if position is None else {"position": position}
        while True:
            try:
                return read(
                    self._client.call("get_audit", deadline_s=self.deadline_s, limit=self._limit, **where), AuditPage
                )
            except MessageTooLarge:
                if self._limit == 1:
                    raise
                self._limit = max(1, self._limit // 4)

    def pages(self, after_seq: int = 0) -> Iterator[AuditPage]:
        """Return pages up to the first one without lines, which is the last one returned."""
        page = self.page(after_seq)
        yield page
        while page.lines:
            page = self.page(position=page.position)
            yield page


def verify_over_the_wire(client: Client, also: Callable[[str], None] = lambda _: None) -> Findings:
    """Read the whole log and check it here; `also` is called with every line.

    Raises:
        TwinhostError: it can't be asked for, or is refused.
    """
    pages = AuditReader(client).pages()
    page = next(pages)
    verifier = Verifier(Anchor(page.anchor.seq, page.anchor.prev))
    for line in page.lines:
        verifier.feed(line)
        also(line)
    for page in pages:
        for line in page.lines:
            verifier.feed(line)
            also(line)
    return verifier.finish(Head(page.head.seq, page.head.hash))
