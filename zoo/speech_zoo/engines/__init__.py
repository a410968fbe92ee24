"""What computes a model's network: MLX itself, or another engine that runs the graph which MLX traces."""
