"""The directory that ``bitfusion run`` puts on its program's PYTHONPATH: Python finds ``sitecustomize`` here and runs it first."""
