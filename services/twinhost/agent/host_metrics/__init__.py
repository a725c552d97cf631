"""What a host measures of itself: CPU, RAM, and GPUs; it knows neither an agent nor the wire."""
