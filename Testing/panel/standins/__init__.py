"""Stand-ins for what only the Slicer application has: PythonQt, its Python base classes, and its widgets.

They run the unchanged module file and .ui over real MRML and a real child process. That a real Slicer behaves alike is
checked by the in-app test (`Testing/slicer`).
"""
