"""Speed, as ratios to the best simple alternative in the same run."""
