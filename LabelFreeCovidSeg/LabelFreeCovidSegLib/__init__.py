"""COVID-19 pneumonia lesions in chest CT, found by networks that never saw a lesion label.

The one door is `LabelFreeCovidSegLib.pipeline.segment`. Importing this package is cheap: torch and SimpleITK are
imported where they are used.
"""

__version__ = "0.1.0"
