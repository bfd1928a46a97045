"""Playing logs back: sources, progressive validation, metrics, figures and reports."""
