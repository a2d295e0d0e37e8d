"""The field's tiny face detectors by their papers; `search_spaces.catalogue` lists them."""
