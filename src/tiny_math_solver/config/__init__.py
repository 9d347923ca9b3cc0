"""One typed configuration, from a YAML file and the command line.

schema.py      sections, fields and defaults; Config     loading.py          file + overrides → Config, all checked
fields.py      every field with type, default, help      limits.py           bounds, choices, refused keys
yaml_file.py   YAML with the line of each key            library_checks.py   what the libraries would refuse too late
overrides.py   --section.key value                       other_layouts.py    keys of other programs
generation_kwargs.py   which of generation_kwargs the rollouts honour
"""
