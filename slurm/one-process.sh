srun --nodes=1 --ntasks=1 @{options} \
  @{command}
