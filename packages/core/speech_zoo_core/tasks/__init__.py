"""What people do with a model: speaker embeddings and verification, language identification, segmentation."""
