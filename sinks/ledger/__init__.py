"""Targets whose positions a ledger keeps, in the transaction that writes the rows; and their sessions."""

from sinks.ledger.session import LedgerSession
from sinks.ledger.target import LedgerTarget

__all__ = ["LedgerSession", "LedgerTarget"]
