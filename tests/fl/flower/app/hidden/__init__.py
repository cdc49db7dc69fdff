"""An app of Flower's whose clients add known updates to a model."""
