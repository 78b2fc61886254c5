"""The vocabulary of synthetic visits and public text: generic names of drugs and conditions, and how charts shorten them.

All of it is ordinary medical English; no text is about a real person. What drugs treat is roughly true, so that public
text has something to teach, and is no medical advice.
"""

from __future__ import annotations

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")  # 2 to 9

UNITS = {"days": "d", "weeks": "wk", "months": "mo"}

FREQUENCIES = {
    "once a day": "QD",
    "twice a day": "BID",
    "three times a day": "TID",
    "at bedtime": "QHS",
    "as needed": "PRN",
    "every other day": "QOD",
}

# condition -> (how a chart writes it, a drug that treats it, two symptoms)
CONDITIONS = {
    "high blood pressure": ("HTN", "lisinopril", ("headache", "dizziness")),
    "diabetes": ("DM", "metformin", ("thirst", "fatigue")),
    "asthma": ("asthma", "albuterol", ("cough", "wheezing")),
    "heart failure": ("CHF", "furosemide", ("swelling", "fatigue")),
    "reflux": ("GERD", "omeprazole", ("heartburn", "cough")),
    "high cholesterol": ("HLD", "atorvastatin", ("fatigue", "cramps")),
    "a low thyroid": ("hypothyroid", "levothyroxine", ("fatigue", "weight gain")),
    "depression": ("MDD", "sertraline", ("poor sleep", "fatigue")),
    "arthritis": ("OA", "naproxen", ("stiffness", "swelling")),
    "gout": ("gout", "allopurinol", ("redness", "swelling")),
    "migraine": ("migraine", "sumatriptan", ("nausea", "headache")),
    "an irregular heartbeat": ("AF", "warfarin", ("palpitations", "dizziness")),
    "anemia": ("anemia", "iron", ("fatigue", "dizziness")),
    "a bladder infection": ("UTI", "nitrofurantoin", ("burning", "fever")),
    "pneumonia": ("PNA", "azithromycin", ("cough", "fever")),
    "kidney stones": ("stones", "tamsulosin", ("nausea", "burning")),
}

DOSES = ("5", "10", "20", "25", "40", "50", "80", "100", "250", "500")

PARTS = ("knee", "shoulder", "hip", "ankle", "elbow", "wrist", "foot", "ear")
TROUBLES = ("pain", "swelling", "stiffness", "numbness", "tingling", "burning")
SIDES = {"left": "L", "right": "R"}
TRIGGERS = ("stairs", "walking", "lifting", "cold weather", "lying down", "driving", "standing", "exercise")
RELIEFS = ("rest", "ice", "heat", "stretching", "massage", "sitting")
SYMPTOMS = (
    "fever",
    "chills",
    "cough",
    "nausea",
    "headache",
    "dizziness",
    "fatigue",
    "cramps",
    "palpitations",
    "wheezing",
)

RELATIVES = {
    "mother": "mom",
    "father": "dad",
    "brother": "bro",
    "sister": "sis",
    "grandmother": "GM",
    "grandfather": "GF",
    "aunt": "aunt",
    "uncle": "uncle",
}

ALLERGENS = ("penicillin", "sulfa", "latex", "aspirin", "codeine", "peanuts", "shellfish", "eggs", "pollen", "iodine")
REACTIONS = {
    "a rash": "rash",
    "hives": "hives",
    "swelling of the lips": "lip edema",
    "trouble breathing": "SOB",
    "an upset stomach": "GI upset",
    "itching": "itch",
}

# organ -> (how a chart writes it, what a doctor says of it -> what a chart writes)
ORGANS = {
    "lungs": ("lungs", {"are clear": "CTA", "have some wheezing": "wheeze", "have crackles": "rales"}),
    "heart": ("CV", {"sounds regular": "RRR", "has a murmur": "murmur", "beats irregularly": "irreg"}),
    "belly": ("abd", {"is soft": "soft", "is tender": "TTP", "is a bit swollen": "distended"}),
    "skin": ("skin", {"looks normal": "nl", "has a rash": "rash", "is dry": "dry"}),
    "throat": ("OP", {"looks normal": "nl", "is red": "erythema", "has some swelling": "edema"}),
    "neck": ("neck", {"moves freely": "supple", "is stiff": "rigid", "has swollen glands": "LAD"}),
}

STATES = {"doing well": "stable", "getting worse": "worse", "getting better": "improved", "new": "new"}

TESTS = {
    "a chest x-ray": "CXR",
    "a blood count": "CBC",
    "a heart tracing": "EKG",
    "an ultrasound": "US",
    "a urine test": "UA",
    "a sugar test": "A1c",
}

CLINICS = {
    "the heart clinic": "cards",
    "physical therapy": "PT",
    "the bone clinic": "ortho",
    "the skin clinic": "derm",
    "the eye clinic": "ophtho",
    "the lung clinic": "pulm",
}

# Small talk: {number} is 2 to 9, so that not every number belongs into a note.
SMALL_TALK = (
    "The parking lot was full again this morning.",
    "My {number} grandchildren came to visit, so I am a little tired.",
    "It took {number} buses to get here, can you believe it?",
    "This rain has not stopped for {number} days.",
    "I have been reading about gardens, and my tomatoes are huge.",
    "We just got {number} puppies and they never sleep.",
    "The game last night was wonderful, we won by {number}.",
    "I will fly to see my cousin in {number} weeks.",
)
SMALL_ANSWERS = (
    "Oh, how nice.",
    "I hear that a lot.",
    "Well, I am glad you made it.",
    "Ha, I can imagine.",
    "Good for you.",
)
OTHERS = ("neighbor", "friend", "coworker", "husband", "roommate", "landlord")
