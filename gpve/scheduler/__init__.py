"""The pure core that decides where guests run: fits, filters, scores, policies, explanations. No I/O, no clock."""
