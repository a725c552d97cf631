"""`new`: writes the folder of an agent outside this repository, from the files in `template/`."""
