"""A reporter for tests: it shows nothing and remembers what it was told."""

from contextlib import contextmanager


class Silent:
    """Notes and warnings in the order in which they came."""

    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    @contextmanager
    def progress(self, label):
        yield lambda done, total, detail="": None
