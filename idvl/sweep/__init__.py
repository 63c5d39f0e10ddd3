"""One file -> many runs, each an ordinary run folder."""
