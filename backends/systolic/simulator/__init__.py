"""What runs programs: memories, functional execution, the cycle engine, the race checker, traces."""
