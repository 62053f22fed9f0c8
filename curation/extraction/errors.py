"""Why a page makes no pairs."""


class PageError(ValueError):
    """A page cannot be used; the message is the reason that its quarantine row gives."""
