"""Real data that is installed with the packages this benchmark needs: nothing is downloaded."""
