"""Small programs that show how flywheel is used; see README.md. The tests run each."""
