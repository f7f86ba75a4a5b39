"""Real logs judge what is recommended: nothing here is simulated, and nothing here imports the simulator."""
