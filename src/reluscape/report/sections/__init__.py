"""The sections of the report, one file each.

Each file has ``ORDER``, its place on the page, and ``section(survey)``, which returns the
:class:`~reluscape.report.section.Section`. Files are found by themselves; none lists the others.
"""
