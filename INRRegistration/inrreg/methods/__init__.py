"""The methods of the papers, one file each.

A method file imports nothing but the standard library and `inrreg.protocol` at its top, so that the
panel can list it with torch absent; `fit` imports what it needs. It defines

* a frozen dataclass derived from `inrreg.protocol.Settings`,
* `PRESETS`, a tuple of `inrreg.protocol.Preset`,
* `fit(problem, settings, run)`, which returns the optimized `inrreg.fields.Field`.

Adding a file here is all it takes to add a method.
"""
