"""The one error of the readers, so that a command line can catch it and print it without a traceback."""


class DatasetError(ValueError):
    """A folder, picture or label map is not what its published layout promises.

    The message names the file, what was expected, what was found and what to do.
    """
