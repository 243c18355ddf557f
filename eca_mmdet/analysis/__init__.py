"""What a detector costs: parameters, multiply-adds, memory, time."""
