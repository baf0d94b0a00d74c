// Says how many jobs are ticked, and offers to compare them as soon as there is something to compare.
"use strict";
{
  const form = document.querySelector("form.listed");
  const most = Number(form.dataset.most); // jobs in one comparison
  const words = document.getElementById("ticked");
  const compare = form.querySelector("button.primary");
  const hint = words.textContent;

  const tell = () => {
    const n = form.querySelectorAll("input:checked").length;
    const more = { 1: "1 job is ticked; tick another one to compare them." };
    const told = n > most ? `${n} jobs are ticked; ${most} can be compared at once.` : `${n} jobs are ticked.`;
    words.textContent = n ? (more[n] ?? told) : hint;
    compare.disabled = n < 2 || n > most;
  };
  form.addEventListener("change", tell);
  form.addEventListener("reset", () => setTimeout(tell)); // the boxes are emptied after this
  document.addEventListener("refreshed", tell);
  tell();
}
