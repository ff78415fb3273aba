"""Where clips go: our format to other tools' formats, one file each."""
