"""Write the matrix into the documentation: `python -m tests.matrix`."""

from tests.matrix.page import PAGE, page

PAGE.write_text(page(), encoding="utf-8")
