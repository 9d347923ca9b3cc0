"""One typed configuration, from a YAML file and the command line.

sections.py    sections, fields and defaults             loading.py          file + overrides → Config, all checked
schema.py      Config, which is made of them             limits.py           bounds, choices, refused keys
fields.py      every field with type, default, help      library_checks.py   what the libraries would refuse too late
yaml_file.py   YAML with the line of each key            other_layouts.py    keys of other programs
overrides.py   --section.key value
generation_kwargs.py   which of generation_kwargs the rollouts honour
"""
