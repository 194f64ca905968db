"""What frames say: matched arms, quantities, contrasts with their intervals, the verdicts on claims."""
