"""Facts about published checkpoints: catalogue.yaml, licences.yaml."""
