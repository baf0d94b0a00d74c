"""What picks of the LR, and forecasts of the loss, are worth: judged by an oracle table, without training again."""
